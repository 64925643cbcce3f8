//! The log: lines on standard error, as text on a terminal, otherwise as JSON.
//!
//! A line within an attempt carries the ids of its span ([`trace`](super::trace)) at debug.
//! Payloads and secrets are never fields; each caller sees to that.

use tracing::{Subscriber, subscriber::SetGlobalDefaultError};
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::MakeWriter};

use crate::config::{LogFormat, LogSettings};

/// The log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("read log.level as a filter")]
    Filter(#[from] ParseError),
    #[error("start the log")]
    Start(#[from] SetGlobalDefaultError),
}

/// Starts the log of this process on standard error. `terminal` says whether that is a terminal.
///
/// # Errors
///
/// If the level is no filter, or the process logs already.
pub fn start(settings: &LogSettings, terminal: bool) -> Result<(), LoggingError> {
    let subscriber = subscriber(settings, terminal, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)?;
    crate::panics::log_them();
    Ok(())
}

fn subscriber<W>(
    settings: &LogSettings,
    terminal: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // not from_env: what is logged is a setting like any other
    let filter = EnvFilter::builder().parse(&settings.level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    Ok(if json {
        Box::new(lines.json().flatten_event(true).with_span_list(false).finish())
    } else if terminal {
        // colours, unless NO_COLOR is set
        Box::new(lines.finish())
    } else {
        Box::new(lines.with_ansi(false).finish())
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};
    use tracing::subscriber::DefaultGuard;

    use super::*;

    #[derive(Clone, Default)]
    pub(in crate::observe) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        /// Until the guard is dropped this thread logs to these lines, as to no terminal.
        pub(in crate::observe) fn log_here(&self, level: &str, format: LogFormat) -> DefaultGuard {
            self.log(level, format, false)
        }

        fn log(&self, level: &str, format: LogFormat, terminal: bool) -> DefaultGuard {
            let lines = self.clone();
            let settings = LogSettings { level: level.to_owned(), format };
            let subscriber = subscriber(&settings, terminal, move || lines.clone()).unwrap();
            tracing::subscriber::set_default(subscriber)
        }

        pub(in crate::observe) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// The log of `work`.
    pub(in crate::observe) fn logged(
        level: &str,
        format: LogFormat,
        terminal: bool,
        work: impl FnOnce(),
    ) -> String {
        let lines = Lines::default();
        let guard = lines.log(level, format, terminal);
        work();
        drop(guard);
        lines.text()
    }

    fn two_lines(level: &str, format: LogFormat, terminal: bool) -> String {
        logged(level, format, terminal, || {
            let _span = tracing::info_span!("attempt", event = 7, endpoint = 3).entered();
            tracing::info!(status = 200, "receiver accepted delivery");
            tracing::debug!("not at this level");
        })
    }

    #[test]
    fn a_line_of_json_has_the_message_its_fields_and_the_ids_of_its_span() {
        let text = two_lines("info", LogFormat::Auto, false);
        let line: Value = serde_json::from_str(&text).expect("one line, one object");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "receiver accepted delivery");
        assert_eq!(line["status"], 200);
        assert_eq!(line["span"], json!({"name": "attempt", "event": 7, "endpoint": 3}));
    }

    #[test]
    fn a_terminal_gets_text_and_a_file_gets_it_without_colours() {
        assert!(two_lines("info", LogFormat::Auto, true).contains("receiver accepted delivery"));
        assert!(serde_json::from_str::<Value>(&two_lines("info", LogFormat::Auto, true)).is_err());
        let plain = two_lines("info", LogFormat::Text, false);
        assert!(plain.contains("receiver accepted delivery status=200"), "{plain}");
        assert!(!plain.contains('\x1b'));
        assert!(serde_json::from_str::<Value>(&two_lines("info", LogFormat::Json, true)).is_ok());
    }

    #[test]
    fn the_level_is_a_filter() {
        assert_eq!(two_lines("warn", LogFormat::Json, false), "");
        assert_eq!(two_lines("debug", LogFormat::Json, false).lines().count(), 2);
        let part = two_lines("warn,posthaste::observe::log=info", LogFormat::Json, false);
        assert_eq!(part.lines().count(), 1);
    }
}
