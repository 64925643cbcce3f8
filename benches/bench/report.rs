//! The printed report: tables in Markdown, so that they can go to RESULTS.md as they are.

use std::fs;

/// Other work of the machine: figures of a busy machine are not figures of this program.
pub(crate) fn busy() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load average {}", load.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

/// A Markdown table; the first row is the head. All but the first column stand to the right.
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
