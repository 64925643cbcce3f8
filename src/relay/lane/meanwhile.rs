//! What was heard of while the dispatcher waited for a statement: what that finds may be older.

use std::collections::HashSet;

use crate::model::endpoint::EndpointId;
use crate::model::withdrawal::Withdrawal;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HeardMeanwhile {
    /// Endpoints that have changed since it last began to read some.
    pub(super) changed: HashSet<EndpointId>,
    /// Cancelled since it last began to claim.
    pub(super) withdrawn: Vec<Withdrawal>,
}
