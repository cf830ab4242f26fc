//! Every call to AWS: the three tables, posting to a connection, invoking `push`.

pub mod post;
