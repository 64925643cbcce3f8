//! What a panic says: one line in the log, and a sentence that may be stored.
//!
//! A panic's message may quote the value that it came of, and that may be a payload or a secret. So
//! of a message that was put together only the beginning is told, up to what a quote follows.

use std::any::Any;
use std::panic::{self, PanicHookInfo};

/// What the messages of the standard library say before they quote.
const BEFORE_A_QUOTE: [&str; 5] = ["\n", ": ", "; it is inside", " when slicing", " of `"];

/// From now on a panic of this process is one line of its log.
pub fn log_them() {
    panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a bug: the relay panicked: {}", said(panic.payload()));
    }));
}

/// What a panic said, without what it may have quoted.
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

    /// The tests' own hook stays: these are shown among the captured output.
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
