//! Reports a panic: one line in the log, and a sentence that may be stored.
//!
//! A panic's message may quote the value that caused it, and that may be a payload or a secret. So
//! of a formatted message only the beginning is told, up to a word that a quote follows.

use std::any::Any;
use std::panic::{self, PanicHookInfo};

/// The words before a quote in messages of the standard library.
const BEFORE_A_QUOTE: [&str; 5] = ["\n", ": ", "; it is inside", " when slicing", " of `"];

/// Makes every panic of this process one line of its log.
pub fn log_them() {
    panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a bug: the relay panicked: {}", said(panic.payload()));
    }));
}

/// The message of a panic, without anything that it may quote.
#[must_use]
pub fn said(panic: &(dyn Any + Send)) -> &str {
    if let Some(literal) = panic.downcast_ref::<&'static str>() {
        return literal;
    }
    let Some(message) = panic.downcast_ref::<String>() else { return "no message" };
    let end = BEFORE_A_QUOTE.iter().filter_map(|sign| message.find(sign)).min();
    &message[..end.unwrap_or(message.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests' own hook stays: the captured output shows these panics.
    fn said_by(panics: impl FnOnce() + panic::UnwindSafe) -> String {
        said(panic::catch_unwind(panics).unwrap_err().as_ref()).to_owned()
    }

    #[test]
    fn what_a_message_quotes_is_left_out() {
        let secret = String::from("whsec_ü");
        let place = std::hint::black_box(7);
        let text = secret.clone();
        for (message, expected) in [
            (said_by(|| panic!("the literal: whole")), "the literal: whole"),
            (said_by(move || panic!("bad secret: {secret}")), "bad secret"),
            (
                said_by(|| assert!("whsec_x".parse::<u8>().map_err(|_| "whsec_x").unwrap() > 0)),
                "called `Result::unwrap()` on an `Err` value",
            ),
            (
                said_by(|| assert_eq!(std::hint::black_box("whsec_x"), "")),
                "assertion `left == right` failed",
            ),
            (said_by(|| panic::panic_any(7)), "no message"),
        ] {
            assert_eq!(message, expected);
        }
        let sliced = said_by(move || drop(text[..place].to_owned()));
        assert!(sliced.contains("char boundary") && !sliced.contains("whsec"), "{sliced}");
    }
}
