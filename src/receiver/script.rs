//! What a receiver answers: yes, or what it was told to do instead, always or for a while.

use std::time::Duration;

use hyper::StatusCode;

use super::listener::Answer;

/// How a receiver fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// With this status; one of 2xx is none, and only another way to accept.
    Status(StatusCode),
    /// It reads the request and closes the connection.
    HangUp,
}

/// What is answered to the n-th request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// `None`: every request is accepted.
    pub fault: Option<Fault>,
    /// The fault is for the first so many requests. `None`: for all.
    pub first: Option<u64>,
    /// Before each answer.
    pub delay: Duration,
}

impl Script {
    /// `number` counts from 1.
    #[must_use]
    pub fn answer(&self, number: u64) -> Answer {
        match self.fault.filter(|_| self.first.is_none_or(|first| number <= first)) {
            None => Answer::Status(StatusCode::OK),
            Some(Fault::Status(status)) => Answer::Status(status),
            Some(Fault::HangUp) => Answer::HangUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_for_all_requests_or_for_the_first() {
        let script = |fault, first| Script { fault, first, delay: Duration::ZERO };
        let answers = |script: Script| [1, 2, 3].map(|number| script.answer(number));
        let (ok, gone) = (Answer::Status(StatusCode::OK), Answer::Status(StatusCode::GONE));
        let fault = Some(Fault::Status(StatusCode::GONE));
        assert_eq!(answers(script(None, None)), [ok; 3]);
        assert_eq!(answers(script(fault, None)), [gone; 3]);
        assert_eq!(answers(script(fault, Some(2))), [gone, gone, ok]);
        assert_eq!(answers(script(Some(Fault::HangUp), Some(1))), [Answer::HangUp, ok, ok]);
    }
}
