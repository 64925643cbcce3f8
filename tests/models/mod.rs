//! Small protocols, in every state that they can reach: the bell, the claims under a lease, and
//! deliveries that are in flight when relays end.
//!
//! Where the relay's decision is a value of `posthaste::model`, the model calls it; a statement is
//! written down once more ([`statements`], [`ledger`]), and what is written down is compared with
//! the statement in a real PostgreSQL ([`fidelity`]). `docs/GUARANTEES.md` says what is shown, and
//! what that assumes. Each model is also run with a fault put into it, which it must find.

#![expect(unreachable_pub, reason = "a test binary exports nothing: `pub` means for this folder")]

mod bell;
mod culprit;
mod explore;
mod fidelity;
mod lease;
mod ledger;
mod statements;
