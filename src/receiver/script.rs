//! A receiver's answers: it accepts, or fails as it was told, always or for the first requests.

use std::time::Duration;

use hyper::StatusCode;

use super::listener::ReceiverAnswer;

/// How a receiver fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverFault {
    /// With this status. A status of 2xx is no fault, only another way to accept.
    Status(StatusCode),
    /// It reads the request and closes the connection.
    HangUp,
}

/// Decides the answer to the n-th request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverScript {
    /// `None`: every request is accepted.
    pub fault: Option<ReceiverFault>,
    /// Requests that meet the fault, from the first on. `None`: all.
    pub first: Option<u64>,
    /// The wait before each answer.
    pub delay: Duration,
}

impl ReceiverScript {
    /// `number` counts from 1.
    #[must_use]
    pub fn answer(&self, number: u64) -> ReceiverAnswer {
        match self.fault.filter(|_| self.first.is_none_or(|first| number <= first)) {
            None => ReceiverAnswer::Status(StatusCode::OK),
            Some(ReceiverFault::Status(status)) => ReceiverAnswer::Status(status),
            Some(ReceiverFault::HangUp) => ReceiverAnswer::HangUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_for_all_requests_or_for_the_first() {
        let script = |fault, first| ReceiverScript { fault, first, delay: Duration::ZERO };
        let answers = |script: ReceiverScript| [1, 2, 3].map(|number| script.answer(number));
        let (ok, gone) =
            (ReceiverAnswer::Status(StatusCode::OK), ReceiverAnswer::Status(StatusCode::GONE));
        let fault = Some(ReceiverFault::Status(StatusCode::GONE));
        assert_eq!(answers(script(None, None)), [ok; 3]);
        assert_eq!(answers(script(fault, None)), [gone; 3]);
        assert_eq!(answers(script(fault, Some(2))), [gone, gone, ok]);
        assert_eq!(
            answers(script(Some(ReceiverFault::HangUp), Some(1))),
            [ReceiverAnswer::HangUp, ok, ok]
        );
    }
}
