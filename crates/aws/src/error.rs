//! Errors of the tables.

use std::{error::Error as StdError, fmt};

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use domain::chain::BoxError;

/// Why an operation of the database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There were too many requests; the same request may succeed later.
    #[error("dynamodb {operation} was throttled")]
    Throttled {
        /// The operation, such as `PutItem`.
        operation: &'static str,
        /// The error of the SDK.
        #[source]
        source: BoxError,
    },
    /// There was no response, or the database failed; the same request may succeed later.
    #[error("dynamodb {operation} got no response")]
    Unavailable {
        /// The operation, such as `PutItem`.
        operation: &'static str,
        /// The error of the SDK.
        #[source]
        source: BoxError,
    },
    /// The request was rejected, and would be again: the table or a permission is missing, or the request
    /// is invalid.
    #[error("dynamodb {operation} was rejected")]
    Rejected {
        /// The operation, such as `PutItem`.
        operation: &'static str,
        /// The error of the SDK.
        #[source]
        source: BoxError,
    },
    /// An item does not have the expected layout.
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
    /// Returns whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } => true,
            Self::Rejected { .. } | Self::Corrupt { .. } => false,
        }
    }

    /// Classifies an error of the SDK about `operation`.
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
            Self::Rejected { operation, source }
        } else {
            Self::Unavailable { operation, source }
        }
    }

    /// Reports an item of `table` that does not have the expected layout.
    pub(crate) fn corrupt(table: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Corrupt { table, source: source.into() }
    }
}
