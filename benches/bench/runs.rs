//! One figure in every run of it: the middle one, and how far the others lie apart.

/// In the order of the runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(pub(crate) Vec<f64>);

impl Runs {
    /// The middle one; of an even number the lower of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let sorted = sorted(self.0.clone());
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn least(&self) -> f64 {
        quantile(&sorted(self.0.clone()), 0.0)
    }

    pub(crate) fn most(&self) -> f64 {
        quantile(&sorted(self.0.clone()), 1.0)
    }

    /// `34,740 (33,001–35,102)`: the median, and the least and the most where they differ from it.
    pub(crate) fn shown(&self, decimals: usize) -> String {
        let median = number(self.median(), decimals);
        let (least, most) = (number(self.least(), decimals), number(self.most(), decimals));
        if least == most { median } else { format!("{median} ({least}–{most})") }
    }
}

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this share of them lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index below len"
    )]
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// 12,345.6
pub(crate) fn number(value: f64, decimals: usize) -> String {
    let plain = format!("{value:.decimals$}");
    let (digits, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}
