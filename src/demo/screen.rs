//! The output of the demo: a story in steps, the SQL that was run, bars while something happens,
//! tables of SQL's answers. Bars need a terminal; without one, a line is printed now and then.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio_postgres::SimpleQueryMessage;

/// Between two lines of progress where there is no terminal.
const LINES_EVERY: u32 = 10;
/// How often the bars are updated; a tick.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// A column of a table is cut here.
const CELL_MAX: usize = 44;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

/// Standard output, and the bars on standard error.
#[derive(Debug)]
pub(super) struct Screen {
    color: bool,
    steps: u32,
}

/// One line per endpoint while deliveries are under way.
#[derive(Debug)]
pub(super) struct Progress {
    bars: Vec<(String, ProgressBar)>,
    /// Ticks so far, if lines are printed in place of bars.
    lines: Option<u32>,
}

impl Screen {
    /// Colours only on a terminal, and only if they are wanted.
    pub(super) fn new(color: bool) -> Self {
        Self { color: color && std::io::stdout().is_terminal(), steps: 0 }
    }

    pub(super) fn title(&self, text: &str) {
        print(&format!("\n{}\n", self.paint(BOLD, text)));
    }

    /// The next numbered step of the story.
    pub(super) fn step(&mut self, text: &str) {
        self.steps += 1;
        print(&format!("\n{} {text}\n", self.paint(BOLD, &format!("{}.", self.steps))));
    }

    /// SQL as it was run, without the comment that names it.
    pub(super) fn sql(&self, statement: &str) {
        for line in statement.lines().filter(|line| !line.starts_with("--")) {
            print(&format!("     {}\n", self.paint(DIM, line)));
        }
    }

    /// The rows that a statement returned.
    pub(super) fn table(&self, messages: &[SimpleQueryMessage]) {
        let rows = without_empty_columns(cells(messages));
        let Some(columns) = rows.first().map(Vec::len) else { return };
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for (number, row) in rows.iter().enumerate() {
            let padded: Vec<String> =
                row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            let line = padded.join("  ");
            let line = line.trim_end();
            let line = if number == 0 { self.paint(BOLD, line) } else { line.to_owned() };
            print(&format!("     {line}\n"));
        }
    }

    #[expect(clippy::unused_self, reason = "who prints goes through the screen")]
    pub(super) fn blank(&self) {
        print("\n");
    }

    pub(super) fn note(&self, text: &str) {
        print(&format!("   {text}\n"));
    }

    /// One promise, and whether it was kept.
    pub(super) fn finding(&self, kept: bool, text: &str) {
        let mark = if kept { self.paint(GREEN, "✓") } else { self.paint(RED, "✗") };
        print(&format!("   {mark} {text}\n"));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Progress {
    /// A bar for each of these labels.
    pub(super) fn new(labels: impl IntoIterator<Item = String>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("   {prefix} {bar:32} {pos:>4}/{len:<4} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸ ");
        let bars = labels.into_iter().map(|label| {
            let bar = if terminal { all.add(ProgressBar::new(0)) } else { ProgressBar::hidden() };
            (label.clone(), bar.with_style(style.clone()).with_prefix(label))
        });
        Self { bars: bars.collect(), lines: (!terminal).then_some(0) }
    }

    /// Delivered, owed, and a word for each label, in their order.
    pub(super) fn tell(&mut self, states: &[(usize, usize, String)]) {
        for ((_, bar), (delivered, owed, word)) in self.bars.iter().zip(states) {
            bar.set_length(*owed as u64);
            bar.set_position(*delivered as u64);
            bar.set_message(word.clone());
        }
        let Some(ticks) = &mut self.lines else { return };
        *ticks += 1;
        if *ticks % LINES_EVERY == 0 {
            let parts =
                self.bars.iter().zip(states).map(|((label, _), (delivered, owed, word))| {
                    let name = label.split(' ').next().unwrap_or_default();
                    format!("{name} {delivered}/{owed} {word}").trim_end().to_owned()
                });
            print(&format!("   {}\n", parts.collect::<Vec<_>>().join(", ")));
        }
    }

    /// Says something above the bars.
    pub(super) fn note(&self, text: &str) {
        let line = format!("   {text}");
        match (&self.lines, self.bars.first()) {
            (None, Some((_, bar))) => bar.println(line),
            _ => print(&format!("{line}\n")),
        }
    }

    /// Leaves the bars where they stand.
    pub(super) fn finish(self) {
        for (_, bar) in &self.bars {
            bar.abandon();
        }
    }
}

/// Column names, then the rows, all as text.
fn cells(messages: &[SimpleQueryMessage]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            if rows.is_empty() {
                rows.push(row.columns().iter().map(|column| column.name().to_owned()).collect());
            }
            rows.push((0..row.len()).map(|cell| shortened(row.get(cell).unwrap_or(""))).collect());
        }
    }
    rows
}

/// A column in which no row says anything only makes the others narrower.
fn without_empty_columns(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let columns = rows.first().map_or(0, Vec::len);
    let says: Vec<bool> =
        (0..columns).map(|column| rows.iter().skip(1).any(|row| !row[column].is_empty())).collect();
    for row in &mut rows {
        let mut column = says.iter();
        row.retain(|_| *column.next().unwrap_or(&false));
    }
    rows
}

fn shortened(text: &str) -> String {
    let one_line = text.replace('\n', " ");
    if one_line.chars().count() <= CELL_MAX {
        return one_line;
    }
    one_line.chars().take(CELL_MAX - 1).chain(['…']).collect()
}

/// The demo's story is its output, so it goes to standard output and not to the log.
fn print(text: &str) {
    // A reader that has closed the pipe (`| head`) has seen enough; the exit code still tells.
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cell_is_cut_at_characters() {
        let cut = shortened(&"ä".repeat(100));
        assert_eq!(cut.chars().count(), CELL_MAX);
        assert!(cut.ends_with('…'));
        assert_eq!(shortened("two\nlines"), "two lines");
    }

    #[test]
    fn a_column_without_a_word_is_left_out() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = vec![row(["a", "b", "c"]), row(["1", "", ""]), row(["", "", "3"])];
        let left = without_empty_columns(rows);
        assert_eq!(left, [["a", "c"], ["1", ""], ["", "3"]]);
    }
}
