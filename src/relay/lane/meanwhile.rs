//! What was heard of while the dispatcher waited for a statement: what that finds may be older.

use std::collections::HashSet;

use crate::model::endpoint::EndpointId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HeardMeanwhile {
    /// Endpoints that have changed since it last began to read some.
    pub(super) changed: HashSet<EndpointId>,
}
