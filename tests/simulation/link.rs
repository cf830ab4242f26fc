//! The connection of a program to the rest of the world. A program that is frozen or killed neither
//! sends nor receives anything.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{self, Instant},
};

#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Debug)]
enum State {
    Up,
    FrozenUntil(Instant),
    Dead,
}

impl Link {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::Up)))
    }

    /// Stops the program for a while. What it was about to do, it does when it wakes.
    pub(crate) fn freeze(&self, time: Duration) {
        self.0.send_replace(State::FrozenUntil(Instant::now() + time));
    }

    /// Stops the program for good.
    pub(crate) fn kill(&self) {
        self.0.send_replace(State::Dead);
    }

    /// Returns when the program runs.
    pub(crate) async fn is_up(&self) {
        loop {
            let state = *self.0.borrow();
            match state {
                State::FrozenUntil(until) if until > Instant::now() => {
                    time::sleep_until(until).await;
                }
                State::Up | State::FrozenUntil(_) => return,
                State::Dead => std::future::pending().await,
            }
        }
    }
}
