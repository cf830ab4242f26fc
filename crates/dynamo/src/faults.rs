//! Faults between a client and the database, for tests and simulations.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The database does not receive it.
    LoseRequest,
    /// The database runs it, but its response is lost.
    LoseResponse,
}

/// Decides about an operation, such as `PutItem`, from its name and its request.
type Decide = dyn FnMut(&str, &[u8]) -> Option<Fault> + Send;

/// The faults of an engine. Clones share them. There are none at first.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Option<Box<Decide>>>>);

impl Faults {
    /// Decides about each operation from its name, such as `PutItem`, and its request, which is JSON.
    pub fn set(&self, decide: impl FnMut(&str, &[u8]) -> Option<Fault> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(decide));
    }

    /// Ends all faults.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the fault of an operation.
    pub(crate) fn take(&self, operation: &str, body: &[u8]) -> Option<Fault> {
        let mut decide = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        decide.as_mut().and_then(|decide| decide(operation, body))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}
