//! From an error to a fact: the [`Cause`] of an IO, TLS, HTTP/1 or HTTP/2 error. Type and code
//! decide, never the text, which is only the detail that an operator reads.

use std::error::Error;
use std::io::{self, ErrorKind};

use rustls::CertificateError;

use super::wire::AllowanceUsedUp;
use crate::model::outcome::{Cause, Outcome, Phase, Refusal};

/// Details are stored with every attempt; a chain of errors longer than this says nothing new.
const DETAIL_MAX: usize = 300;

/// The outcome of an error in this phase. A time-out of the kernel's is a time-out.
pub(super) fn of(error: &(dyn Error + 'static), phase: Phase) -> Outcome {
    let mut kernel_timed_out = false;
    let mut found = None;
    for error in chain(error) {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            kernel_timed_out |= io.kind() == ErrorKind::TimedOut;
        }
        found = cause_of(error).or(found); // the innermost knows best
    }
    if kernel_timed_out {
        return Outcome::TimedOut { phase };
    }
    unreachable(found.unwrap_or(Cause::Io), &describe(error))
}

/// The same, with what the client was doing, and with which peer.
pub(super) fn while_doing(doing: &str, error: &(dyn Error + 'static), phase: Phase) -> Outcome {
    match of(error, phase) {
        Outcome::Unreachable { cause, detail } => {
            let words = chain(error).find_map(|error| error.downcast_ref().and_then(in_words));
            let detail = words.map_or(detail.clone(), |words| format!("{words} ({detail})"));
            unreachable(cause, &format!("{doing}: {detail}"))
        }
        other => other,
    }
}

/// The meaning of a TLS error for an operator, where its own words do not tell it.
fn in_words(error: &rustls::Error) -> Option<&'static str> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enums may grow; they have words too")]
    match error {
        rustls::Error::InvalidMessage(_) => {
            Some("the port speaks no TLS: is the URL to be http://?")
        }
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Some("the certificate has expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Some("the certificate is not valid yet")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Some("the certificate is for another name")
            }
            CertificateError::UnknownIssuer => {
                Some("the certificate's issuer is not trusted; delivery.ca_file adds an authority")
            }
            _ => None,
        },
        _ => None,
    }
}

/// An outcome without an error value behind it.
pub(super) fn unreachable(cause: Cause, detail: &str) -> Outcome {
    Outcome::Unreachable { cause, detail: shortened(detail) }
}

/// The relay did not send.
pub(super) fn refused(why: Refusal, detail: &str) -> Outcome {
    Outcome::Refused { why, detail: shortened(detail) }
}

/// An error with its causes, outermost first, each said once.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for error in chain(error) {
        let said = error.to_string();
        if !text.ends_with(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
    }
    shortened(&text)
}

fn cause_of(error: &(dyn Error + 'static)) -> Option<Cause> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        Some(of_tls(error))
    } else if error.is::<AllowanceUsedUp>() {
        Some(Cause::Protocol)
    } else if let Some(error) = error.downcast_ref::<h2::Error>() {
        of_http2(error)
    } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
        of_hyper(error)
    } else {
        error.downcast_ref::<io::Error>().and_then(|error| of_io(error.kind()))
    }
}

fn of_tls(error: &rustls::Error) -> Cause {
    let rustls::Error::InvalidCertificate(certificate) = error else { return Cause::TlsOther };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow; the rest is one cause")]
    match certificate {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Cause::TlsExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Cause::TlsWrongName
        }
        CertificateError::UnknownIssuer => Cause::TlsUnknownIssuer,
        _ => Cause::TlsOther,
    }
}

fn of_http2(error: &h2::Error) -> Option<Cause> {
    if error.is_io() {
        None // the IO error is the next link of the chain
    } else if error.is_remote() && error.is_go_away() {
        Some(Cause::Closed)
    } else if error.is_remote() {
        Some(Cause::Reset)
    } else {
        Some(Cause::Protocol)
    }
}

fn of_hyper(error: &hyper::Error) -> Option<Cause> {
    if error.is_parse() {
        Some(Cause::Protocol)
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Some(Cause::Closed)
    } else {
        None
    }
}

fn of_io(kind: ErrorKind) -> Option<Cause> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow; the rest is Cause::Io")]
    match kind {
        ErrorKind::ConnectionRefused => Some(Cause::ConnectionRefused),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            Some(Cause::Reset)
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Some(Cause::NoRoute)
        }
        ErrorKind::UnexpectedEof | ErrorKind::NotConnected => Some(Cause::Closed),
        _ => None,
    }
}

/// The error and its causes, outermost first. The standard library's `source` of an IO error skips
/// the error that the IO error wraps, which is the one that matters here.
fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    const LINKS: usize = 16; // no honest chain is longer, and a cycle must end
    let next = |error: &&'e (dyn Error + 'static)| -> Option<&'e (dyn Error + 'static)> {
        let error: &'e (dyn Error + 'static) = *error;
        match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    };
    std::iter::successors(Some(error), next).take(LINKS)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(DETAIL_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(error: &io::Error) -> Cause {
        match of(error, Phase::Connect) {
            Outcome::Unreachable { cause, .. } => cause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn io_errors_are_told_apart_by_their_kind() {
        for (kind, expected) in [
            (ErrorKind::ConnectionRefused, Cause::ConnectionRefused),
            (ErrorKind::ConnectionReset, Cause::Reset),
            (ErrorKind::BrokenPipe, Cause::Reset),
            (ErrorKind::HostUnreachable, Cause::NoRoute),
            (ErrorKind::NetworkUnreachable, Cause::NoRoute),
            (ErrorKind::UnexpectedEof, Cause::Closed),
            (ErrorKind::PermissionDenied, Cause::Io),
        ] {
            assert_eq!(cause(&kind.into()), expected);
        }
    }

    #[test]
    fn the_kernels_time_out_is_a_time_out() {
        let error = io::Error::from(ErrorKind::TimedOut);
        assert_eq!(of(&error, Phase::Connect), Outcome::TimedOut { phase: Phase::Connect });
    }

    #[test]
    fn the_innermost_error_decides_however_deep_it_is_wrapped() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::new(ErrorKind::BrokenPipe, tls));
        assert_eq!(cause(&wrapped), Cause::TlsUnknownIssuer);
        assert_eq!(cause(&io::Error::other(AllowanceUsedUp)), Cause::Protocol);
    }

    #[test]
    fn a_detail_says_each_thing_once_and_has_an_end() {
        let wrapped = io::Error::other(io::Error::other("ü".repeat(1000)));
        let detail = describe(&wrapped);
        assert_eq!(detail.chars().count(), DETAIL_MAX + 1);
    }
}
