//! Standard output.

use std::io::{self, Write as _};

use super::error::CliError;

/// Writes to standard output. A reader that has closed the pipe, as `head` does, is no failure.
pub(super) fn say(text: &str) -> Result<(), CliError> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}
