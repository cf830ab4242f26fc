//! The set of topics that a source fetches.

use std::collections::BTreeSet;

use domain::topic::Topic;

/// The topics of one source that have a subscriber or are configured to be recorded.
pub type Wanted = BTreeSet<Topic>;
