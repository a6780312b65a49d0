//! The same work on several images.

use super::{exit, output};
use crate::error::Result;
use crate::guestfs::ordered::in_order;
use std::process::ExitCode;

/// How many images are worked on at once.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Jobs {
    /// Work on this many images at once
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

impl Jobs {
    /// Does `work` on each image and gives the results to `take` in their order. One that fails does not stop the others;
    /// the exit code is that of the first failure.
    pub(super) fn run<T: Sync, R: Send>(
        self,
        images: &[T],
        work: impl Fn(&T) -> Result<R> + Sync,
        mut take: impl FnMut(&T, R) -> Result<()>,
    ) -> Result<ExitCode> {
        if let [only] = images {
            take(only, work(only)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (mut failed, mut code) = (0_usize, None);
        let threads = usize::from(self.jobs);
        in_order(
            images.iter(),
            threads,
            threads * 2,
            |image| (image, work(image)),
            |(image, result)| {
                if let Err(error) = result.and_then(|value| take(image, value)) {
                    eprintln!("guestctl: {}", output::one_line(&error.to_string()));
                    failed += 1;
                    code.get_or_insert(exit::code(&error));
                }
                Ok(())
            },
        )?;
        if failed > 0 {
            eprintln!("guestctl: {failed} of {} images failed", images.len());
        }
        Ok(ExitCode::from(code.unwrap_or(0)))
    }
}
