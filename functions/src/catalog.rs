//! The catalog of the exchange's products, as the poller last stored it.

use std::{sync::Arc, time::Duration};

use aws::{
    control::{Control, Product},
    error::StoreError,
};
use domain::{
    source::{Family, Key},
    topic::Topic,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use rapidfuzz::distance::osa;

/// How long the catalog is cached.
const CACHE_FOR: Duration = Duration::from_mins(1);

/// Largest edit distance between an unknown pair and a suggestion.
const MAX_DISTANCE: usize = 3;

/// Largest number of suggestions.
const MAX_SUGGESTIONS: usize = 5;

/// The products of the exchange.
#[derive(Debug)]
pub struct Catalog {
    control: Control,
    cached: Mutex<Option<(Timestamp, Arc<[Product]>)>>,
}

/// A pair that the exchange does not have.
#[derive(Clone, Debug)]
pub struct UnknownPair {
    /// The pair.
    pub pair: String,
    products: Arc<[Product]>,
}

impl UnknownPair {
    /// Returns the names of the existing pairs that are nearest to it, the nearest first. This compares it with
    /// all products, so do it once for a message.
    pub fn nearest(&self) -> Vec<String> {
        nearest(&self.pair, self.products.iter().map(|product| product.id.as_str()))
    }
}

impl Catalog {
    /// Returns a catalog that is read from the database when it is first used.
    pub fn new(control: Control) -> Self {
        Self { control, cached: Mutex::default() }
    }

    /// Returns the products of Coinbase; empty before the poller has stored them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn products(&self, now: Timestamp) -> Result<Arc<[Product]>, StoreError> {
        let cached = self.cached.lock().clone();
        if let Some((at, products)) = cached
            && now.duration_since(at).unsigned_abs() < CACHE_FOR
        {
            return Ok(products);
        }
        let products: Arc<[Product]> =
            self.control.products(Family::Coinbase.name()).await?.unwrap_or_default().into();
        if !products.is_empty() {
            *self.cached.lock() = Some((now, products.clone()));
        }
        Ok(products)
    }

    /// Returns the pair of a topic if the exchange does not have it; `None` for topics without a pair,
    /// and while the products are not known.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn unknown_pair(
        &self,
        topic: &Topic,
        now: Timestamp,
    ) -> Result<Option<UnknownPair>, StoreError> {
        if topic.kind().channel().key != Some(Key::Pair) {
            return Ok(None);
        }
        let pair = topic.key().unwrap_or_default();
        let products = self.products(now).await?;
        if products.is_empty() || products.iter().any(|product| product.id == pair) {
            return Ok(None);
        }
        Ok(Some(UnknownPair { pair: pair.to_owned(), products }))
    }
}

/// Returns the names that are nearest to `pair`, the nearest first.
fn nearest<'a>(pair: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let pair = osa::BatchComparator::new(pair.chars());
    let cutoff = osa::Args::default().score_cutoff(MAX_DISTANCE);
    let mut near: Vec<(usize, &str)> = names
        .filter_map(|name| Some((pair.distance_with_args(name.chars(), &cutoff)?, name)))
        .collect();
    near.sort_unstable();
    near.into_iter().take(MAX_SUGGESTIONS).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_and_the_nearest_comes_first() {
        let names = ["ETH-USD", "BTC-USD", "BTC-EUR", "SOMETHING-ELSE"];
        assert_eq!(nearest("BTC-USS", names.into_iter()), ["BTC-USD", "BTC-EUR", "ETH-USD"]);
        assert!(nearest("NO-SUCH-PAIR", names.into_iter()).is_empty());
    }
}
