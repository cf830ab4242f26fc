//! The programs and packages that the tests need.

use std::path::PathBuf;

use harness::skip;

/// Where things are.
pub(crate) struct Tools {
    tools: PathBuf,
    packages: PathBuf,
}

impl Tools {
    /// Finds what `make test-deploy` names. Otherwise it returns nothing and prints the reason.
    ///
    /// # Panics
    ///
    /// Under `CI=true`, when nothing is named.
    pub(crate) fn find() -> Option<Self> {
        let named = |name| std::env::var_os(name).map(PathBuf::from);
        let found = named("HEADWATER_TOOLS").zip(named("HEADWATER_PACKAGES"));
        if found.is_none() {
            skip("HEADWATER_TOOLS and HEADWATER_PACKAGES are not set; run `make test-deploy`");
        }
        found.map(|(tools, packages)| Self { tools, packages })
    }

    /// A program of one of the two folders of tools, `aws` or `stand-in`.
    pub(crate) fn program(&self, folder: &str, name: &str) -> PathBuf {
        let path = self.tools.join(folder).join("bin").join(name);
        assert!(path.exists(), "{} is missing", path.display());
        path
    }

    /// AWS's Runtime Interface Emulator, which comes with the SAM CLI.
    pub(crate) fn runtime_emulator(&self) -> PathBuf {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
        let python =
            std::fs::read_dir(self.tools.join("aws/lib")).unwrap().next().unwrap().unwrap();
        let packages = python.path().join("site-packages");
        packages.join(format!("samcli/local/rapid/aws-lambda-rie-{arch}"))
    }

    /// The program in a function's package.
    pub(crate) fn bootstrap(&self, function: &str) -> PathBuf {
        let path = self.packages.join(function).join("bootstrap.zip");
        assert!(path.exists(), "{} is missing", path.display());
        path
    }
}
