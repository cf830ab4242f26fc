//! The choice of the name by which the functions of a template are invoked.

/// The name by which the functions of a template are invoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FunctionNames {
    /// The binary (`Metadata`, `BuildProperties`, `Binary`), as for `cargo lambda watch`.
    #[default]
    Binary,
    /// The logical id in the template, as for `sam local start-lambda`.
    LogicalId,
    /// `FunctionName`, as on AWS.
    FunctionName,
}
