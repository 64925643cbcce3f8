//! Every outcome, on real sockets.

mod answers;
mod failures;
mod guard;
mod http2;
mod kept;
mod odd;
mod peer;
mod proxied;
mod tls;
