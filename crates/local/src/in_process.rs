//! All parts of Headwater, wired together in one process.

mod functions;
mod server;

pub use self::{
    functions::{AUTHORIZE, CONNECTION, DirectFunctions, PUSH, REST},
    server::{Server, Settings},
};
