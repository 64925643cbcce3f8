//! Signatures of webhooks: made for outgoing ones ([`sign`]), checked on incoming ones
//! ([`verify`]).

pub mod sign;
pub mod verify;
