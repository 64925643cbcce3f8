//! `posthaste receive`: a [`receiver`](crate::receiver) in the terminal, without settings or
//! database.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;

use super::error::{CliError, ReceiveError};
use crate::config::{parse_duration, parse_size};
use crate::receiver::listener::ReceiverListener;
use crate::receiver::{OutputForm, ReceiverFault, ReceiverScript, Receiving, receive};
use crate::signing::verify::{Scheme, Verifier};
use crate::stopper::Stopper;

/// As Standard Webhooks advises.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// A body may be as long as `usize` lets it, and not longer than this.
const BODY_BOUND: u64 = 1 << 30;

#[derive(Debug, Args)]
pub struct ReceiveOptions {
    /// Listen on this port of 127.0.0.1, or on this address and port. 0 is any free port.
    #[arg(value_name = "ADDRESS|PORT", default_value = "9310", value_parser = place)]
    address: SocketAddr,
    /// Verify signatures with this `whsec_…` (or public `whpk_…`); may be repeated. Other users of
    /// this machine can read it here.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Verify signatures with the secrets in this file, one a line.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Answer with this status instead of 200: always, or for the requests that --fail counts.
    #[arg(long, value_name = "STATUS", value_parser = status, conflicts_with = "close")]
    status: Option<StatusCode>,
    /// Close the connection instead of answering: always, or for the requests that --fail counts.
    #[arg(long)]
    close: bool,
    /// Fail the first N requests, with 503 unless told otherwise, and accept the others.
    #[arg(long, value_name = "N")]
    fail: Option<u64>,
    /// Wait before each answer, such as 2s.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    delay: Duration,
    /// Exit after N requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Refuse longer bodies with 413.
    #[arg(long, value_name = "SIZE", value_parser = body_max, default_value = "1MiB")]
    max_body: usize,
    /// Print one JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: ReceiveOptions, stopper: &Stopper) -> Result<(), CliError> {
    let address = options.address;
    let receiving = options.receiving()?;
    let bind = ReceiverListener::bind(address).await;
    let listener = bind.map_err(|source| ReceiveError::Bind { address, source })?;
    // Standard output is for webhooks alone. A closed standard error is no failure.
    drop(writeln!(io::stderr(), "receiving at http://{}", listener.address()));
    receive(listener, receiving, io::stdout(), stopper).await.map_err(CliError::Output)
}

impl ReceiveOptions {
    fn receiving(self) -> Result<Receiving, ReceiveError> {
        let mut secrets = self.secrets;
        if let Some(path) = self.secret_file {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|source| ReceiveError::SecretFile { path, source })?;
            secrets.extend(text.lines().map(str::trim).filter(|s| !s.is_empty()).map(Into::into));
        }
        let verifier = match &secrets[..] {
            [] => None,
            secrets => {
                let verifier = Verifier::new(Scheme::Standard, secrets, TOLERANCE);
                Some(verifier.map_err(ReceiveError::Secrets)?)
            }
        };
        let fault = match (self.close, self.status, self.fail) {
            (true, _, _) => Some(ReceiverFault::HangUp),
            (_, Some(status), _) => Some(ReceiverFault::Status(status)),
            (_, None, Some(_)) => Some(ReceiverFault::Status(StatusCode::SERVICE_UNAVAILABLE)),
            (_, None, None) => None,
        };
        Ok(Receiving {
            verifier,
            script: ReceiverScript { fault, first: self.fail, delay: self.delay },
            form: if self.json { OutputForm::Json } else { OutputForm::Text },
            count: self.count,
            body_max: self.max_body,
        })
    }
}

fn place(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| (Ipv4Addr::LOCALHOST, port).into());
    port.or_else(|_| text.parse())
        .map_err(|_| "write a port, or an address and port such as 127.0.0.1:9310".to_owned())
}

/// Not 1xx, which are no final answers.
fn status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse().ok().filter(|status: &StatusCode| status.as_u16() >= 200);
    status.ok_or_else(|| "write a status from 200 to 999".to_owned())
}

fn body_max(text: &str) -> Result<usize, String> {
    let size = parse_size(text)?;
    let size = usize::try_from(size).ok().filter(|_| size <= BODY_BOUND);
    size.ok_or_else(|| "write at most 1GiB".to_owned())
}
