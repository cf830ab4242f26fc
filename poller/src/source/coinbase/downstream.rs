//! The part of the feed that a connection to the exchange needs; tests replace it by a recorder.

use std::{future::Future, sync::Arc};

use aws::{control::Product, error::StoreError};
use domain::{frame::Frame, source::State, topic::Topic};
use tokio::sync::watch;

use crate::{feed::Feed, outgoing::Outgoing, wanted::Wanted};

/// The name of the source.
pub(super) const NAME: &str = "coinbase";

/// The part of the feed that a connection to the exchange needs.
pub(super) trait Downstream: Clone + Send + Sync + 'static {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>>;

    fn publish(&self, topic: &Topic, event: Outgoing);

    fn report(&self, state: State, detail: String);

    fn newest(
        &self,
        topic: &Topic,
    ) -> impl Future<Output = Result<Option<Frame>, StoreError>> + Send;

    fn put_products(
        &self,
        products: &[Product],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl Downstream for Feed {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        Self::wanted(self)
    }

    fn publish(&self, topic: &Topic, event: Outgoing) {
        Self::publish(self, topic, event);
    }

    fn report(&self, state: State, detail: String) {
        Self::report(self, state, detail);
    }

    async fn newest(&self, topic: &Topic) -> Result<Option<Frame>, StoreError> {
        Self::newest(self, topic).await
    }

    async fn put_products(&self, products: &[Product]) -> Result<(), StoreError> {
        self.control().put_products(NAME, products).await
    }
}
