//! The programs and packages that the tests need.

use std::path::PathBuf;

use harness::skip;

/// The folders of the programs and packages.
pub(crate) struct Tools {
    tools: PathBuf,
    packages: PathBuf,
}

impl Tools {
    /// Finds the folders that `make test-deploy` sets. Without them, prints the reason and returns `None`.
    ///
    /// # Panics
    ///
    /// Under `CI=true`, when they are not set.
    pub(crate) fn find() -> Option<Self> {
        let named = |name| std::env::var_os(name).map(PathBuf::from);
        let found = named("HEADWATER_TOOLS").zip(named("HEADWATER_PACKAGES"));
        if found.is_none() {
            skip("HEADWATER_TOOLS and HEADWATER_PACKAGES are not set; run `make test-deploy`");
        }
        found.map(|(tools, packages)| Self { tools, packages })
    }

    /// Returns a program of one of the two folders of tools, `aws` or `stand-in`.
    pub(crate) fn program(&self, folder: &str, name: &str) -> PathBuf {
        let path = self.tools.join(folder).join("bin").join(name);
        assert!(path.exists(), "{} is missing", path.display());
        path
    }

    /// Returns AWS's Runtime Interface Emulator, which comes with the SAM CLI.
    pub(crate) fn runtime_emulator(&self) -> PathBuf {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
        let python =
            std::fs::read_dir(self.tools.join("aws/lib")).unwrap().next().unwrap().unwrap();
        let packages = python.path().join("site-packages");
        packages.join(format!("samcli/local/rapid/aws-lambda-rie-{arch}"))
    }

    /// Returns the package of a function.
    pub(crate) fn bootstrap(&self, function: &str) -> PathBuf {
        let path = self.packages.join(function).join("bootstrap.zip");
        assert!(path.exists(), "{} is missing", path.display());
        path
    }
}
