//! What this relay has claimed.

pub(super) mod uncertain;
