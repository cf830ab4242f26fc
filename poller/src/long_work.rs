//! Work that takes long.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Smallest input, in bytes, whose work is long. Smaller ones are handled within a millisecond.
const LARGE: usize = 64 * 1024;

/// Does work on an input of so many bytes. If the input is large, other tasks of this thread go on elsewhere
/// meanwhile.
pub(crate) fn on_input<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_others = || {
        let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        matches!(runtime, Ok(RuntimeFlavor::MultiThread))
    };
    if bytes >= LARGE && has_others() { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for a task that runs on the same thread, unless that thread does something else meanwhile.
    fn wait_for_a_task(bytes: usize) -> bool {
        let (done, result) = std::sync::mpsc::channel();
        tokio::spawn(async move { done.send(()) });
        on_input(bytes, || result.recv_timeout(std::time::Duration::from_secs(5)).is_ok())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_while_a_large_input_is_handled() {
        let task = tokio::spawn(async { wait_for_a_task(LARGE) });
        assert!(task.await.expect("the task ends"));
    }

    #[tokio::test]
    async fn in_a_runtime_of_one_thread_the_work_is_done_as_it_is() {
        assert_eq!(on_input(LARGE, || 1), 1);
    }
}
