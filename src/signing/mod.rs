//! Signatures of webhooks: made for those that are sent ([`sign`]), checked for those that come in
//! ([`verify`]).

pub mod sign;
pub mod verify;
