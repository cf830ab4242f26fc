//! What can go wrong between us and AWS.

use std::{error::Error as StdError, fmt};

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
pub use domain::chain::{BoxError, Chain};

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Too much at once; the same request may succeed later.
    #[error("dynamodb {operation} was throttled")]
    Throttled {
        /// The operation, such as `PutItem`.
        operation: &'static str,
        /// What the SDK says.
        #[source]
        source: BoxError,
    },
    /// No answer, or a fault on the other side; the same request may succeed later.
    #[error("dynamodb {operation} got no answer")]
    Unavailable {
        /// The operation, such as `PutItem`.
        operation: &'static str,
        /// What the SDK says.
        #[source]
        source: BoxError,
    },
    /// Refused for good: no such table, no permission, a fault of ours.
    #[error("dynamodb {operation} was refused")]
    Refused {
        /// The operation, such as `PutItem`.
        operation: &'static str,
        /// What the SDK says.
        #[source]
        source: BoxError,
    },
    /// An item is not as we write it.
    #[error("item in {table} cannot be read")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
}

impl StoreError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } => true,
            Self::Refused { .. } | Self::Corrupt { .. } => false,
        }
    }

    /// Sorts what the SDK says about `operation`.
    pub(crate) fn from_sdk<E, R>(operation: &'static str, error: SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
        R: fmt::Debug + Send + Sync + 'static,
    {
        let throttled = matches!(
            error.code(),
            Some(
                "ProvisionedThroughputExceededException"
                    | "ThrottlingException"
                    | "RequestLimitExceeded"
                    | "LimitExceededException"
                    | "TransactionConflictException"
            )
        );
        let answered = matches!(&error, SdkError::ServiceError(_)) && error.code().is_some();
        let inside = error.code() == Some("InternalServerError");
        let source = Box::new(error);
        if throttled {
            Self::Throttled { operation, source }
        } else if answered && !inside {
            Self::Refused { operation, source }
        } else {
            Self::Unavailable { operation, source }
        }
    }

    /// An item of `table` that is not as we write it.
    pub(crate) fn corrupt(table: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Corrupt { table, source: source.into() }
    }
}
