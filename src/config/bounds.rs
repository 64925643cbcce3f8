//! Bounds of single settings: each violation tells the operator which values would be right.

use std::{borrow::Cow, ops::RangeInclusive, path::Path, time::Duration};

use jiff::SignedDuration;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// The longest time of any setting. It keeps sums of times in range.
pub(super) const TEN_YEARS: Duration = Duration::from_secs(3653 * 24 * 3600);
pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;

/// A setting that is out of bounds.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) key: Cow<'static, str>,
    /// The other setting that it disagrees with, which may be the one that was written down.
    pub(super) with: Option<&'static str>,
    /// Tells the operator what would be right.
    pub(super) what: String,
}

/// Everything that is out of bounds, in the order in which it was found.
#[derive(Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    pub(super) fn into_vec(self) -> Vec<Violation> {
        self.0
    }

    pub(super) fn add(&mut self, violation: Violation) {
        self.0.push(violation);
    }

    pub(super) fn push(&mut self, key: &'static str, what: String) {
        self.0.push(Violation { key: key.into(), with: None, what });
    }

    pub(super) fn at_least(
        &mut self,
        is: bool,
        key: &'static str,
        times: &str,
        with: &'static str,
    ) {
        if !is {
            let what = format!("must be at least {times}{with}");
            self.0.push(Violation { key: key.into(), with: Some(with), what });
        }
    }

    pub(super) fn unless(&mut self, right: bool, key: &'static str, what: &str) {
        if !right {
            self.push(key, what.to_owned());
        }
    }

    pub(super) fn url(&mut self, key: &'static str, url: &str) {
        let looks_right =
            ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
                || (!url.contains("://") && url.contains('='));
        // the text is not repeated: it may hold a password
        self.unless(
            looks_right || url.is_empty(),
            key,
            "not a Postgres URL; write postgres://user:password@host:port/database",
        );
    }

    pub(super) fn count(&mut self, key: &'static str, value: usize, bounds: RangeInclusive<usize>) {
        let (least, most) = bounds.into_inner();
        if !(least..=most).contains(&value) {
            self.push(key, format!("{value} is out of bounds; write {least} to {most}"));
        }
    }

    pub(super) fn size(&mut self, key: &'static str, value: usize, bounds: RangeInclusive<usize>) {
        let (least, most) = bounds.into_inner();
        if !(least..=most).contains(&value) {
            let what = format!(
                "{value} bytes are out of bounds; write {} to {}",
                in_bytes(least),
                in_bytes(most)
            );
            self.push(key, what);
        }
    }

    pub(super) fn time(
        &mut self,
        key: &'static str,
        value: Duration,
        bounds: RangeInclusive<Duration>,
    ) {
        if !bounds.contains(&value) {
            let (least, most) = bounds.into_inner();
            let what = format!(
                "\"{}\" is out of bounds; write \"{}\" to \"{}\"",
                in_words(value),
                in_words(least),
                in_words(most)
            );
            self.push(key, what);
        }
    }

    pub(super) fn file(&mut self, key: &'static str, path: Option<&Path>) {
        if let Some(path) = path.filter(|path| !path.is_file()) {
            self.push(key, format!("there is no file {}", path.display()));
        }
    }
}

fn in_words(time: Duration) -> String {
    let days = time.as_secs() / DAY.as_secs();
    if days > 0 && DAY * u32::try_from(days).unwrap_or(u32::MAX) == time {
        return format!("{days}d");
    }
    SignedDuration::try_from(time).map_or_else(|_| format!("{time:?}"), |time| format!("{time:#}"))
}

fn in_bytes(size: usize) -> String {
    for (factor, unit) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if size >= factor && size.is_multiple_of(factor) {
            return format!("{}{unit}", size / factor);
        }
    }
    format!("{size}B")
}
