//! Medians and tables, in Markdown so that they can go to RESULTS.md as they are.

use std::fs;

use anyhow::Result;

use super::lab::Lab;

/// What the figures were had on.
pub(crate) async fn conditions(lab: &Lab) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let session = super::lab::Session::open(&lab.cluster.url()).await?;
    let version: String = session.query_one("show server_version", &[]).await?.get(0);
    println!(
        "{cores} cores, PostgreSQL {version}, fsync on, payloads of {} bytes; settings {:?}; {}",
        super::load::PAYLOAD,
        lab.settings,
        busy()
    );
    Ok(())
}

/// Who else is at work: figures of a busy machine are not figures of this program.
pub(crate) fn busy() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load average {}", load.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

/// The middle one; of an even number the lower of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
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

/// A Markdown table; the first row is the head. Numbers stand to the right.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (n, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        if n == 0 {
            let rule = widths.iter().enumerate().map(|(column, &width)| {
                if column == 0 {
                    "-".repeat(width)
                } else {
                    format!("{}:", "-".repeat(width.saturating_sub(1)))
                }
            });
            println!("| {} |", rule.collect::<Vec<_>>().join(" | "));
        }
    }
}

pub(crate) fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// 12,345
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
