//! Checks `log.level`: a level for everything, and others for parts of the program.
//!
//! `tracing` accepts more. It takes a word that is no level for a part's name, and with such a word
//! alone logs nothing else, not even errors: `"warning"` would silence a relay.

use super::error::nearest;

/// From nothing to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The crate whose parts operators nearly always mean.
const OURS: &str = "posthaste";

/// Accepts levels and `part=level`, separated by commas.
pub(super) fn parse_filter(text: &str) -> Result<String, String> {
    let mut general = None;
    for piece in text.split(',').map(str::trim) {
        match piece.split_once('=') {
            Some((part, level)) => {
                is_part(part.trim())?;
                is_level(level.trim())?;
            }
            None => {
                is_level(piece)?;
                if let Some(other) = general.replace(piece) {
                    return Err(format!(
                        "{other:?} and {piece:?} are both for everything; write one of them"
                    ));
                }
            }
        }
    }
    // Without spaces: the filter's own parser takes none.
    Ok(text.chars().filter(|c| !c.is_whitespace()).collect())
}

fn is_level(word: &str) -> Result<(), String> {
    let small = word.to_ascii_lowercase();
    if LEVELS.contains(&&*small) {
        return Ok(());
    }
    // "warning", "err", "information": the word begins with a level, or a level with the word.
    let begins = |level: &&&str| {
        small.len() > 1 && (small.starts_with(**level) || level.starts_with(&small))
    };
    let meant =
        LEVELS.iter().find(begins).copied().or_else(|| nearest(&small, LEVELS).first().copied());
    let meant = meant.map(|level| format!("did you mean {level:?}? ")).unwrap_or_default();
    Err(format!(
        "{word:?} is not a level; {meant}write \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", \
         or with parts, \"info,posthaste::relay=debug\""
    ))
}

/// A path of modules.
fn is_part(part: &str) -> Result<(), String> {
    let word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !part.split("::").all(word) {
        return Err(format!(
            "{part:?} is not a part of the program; write one such as \"posthaste::relay\""
        ));
    }
    let krate = part.split("::").next().unwrap_or_default();
    if krate != OURS && nearest(krate, [OURS]) == [OURS] {
        return Err(format!("{part:?} is not a part of the program; did you mean {OURS:?}?"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::EnvFilter;

    use super::*;

    #[test]
    fn levels_and_parts_are_taken_as_the_log_takes_them() {
        for text in [
            "info",
            "off",
            "WARN",
            "info,posthaste::relay=debug",
            "warn, hyper=off",
            "posthaste=debug,hyper=warn",
        ] {
            let filter = parse_filter(text).unwrap();
            EnvFilter::builder().parse(&filter).expect(text);
        }
    }

    #[test]
    fn what_is_no_level_is_refused_with_the_one_that_was_meant() {
        for (text, meant) in [
            ("warning", "did you mean \"warn\"? "),
            ("inof", "did you mean \"info\"? "),
            ("err", "did you mean \"error\"? "),
            ("information", "did you mean \"info\"? "),
            ("dbug", "did you mean \"debug\"? "),
            ("info,posthaste=verbose", "\"verbose\" is not a level; write"),
            ("", "\"\" is not a level; write"),
            ("info,", "\"\" is not a level; write"),
            ("3", "\"3\" is not a level; write"),
            ("hyper", "\"hyper\" is not a level; write"),
            ("info,debug", "both for everything"),
            ("info,[span]=debug", "is not a part of the program"),
            ("info,postahste::relay=debug", "did you mean \"posthaste\"?"),
            ("info,=,", "is not a part"),
        ] {
            let wrong = parse_filter(text).expect_err(text);
            assert!(wrong.contains(meant), "{text}: {wrong}");
        }
    }
}
