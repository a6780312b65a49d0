//! Progress on standard error, and ending a command half-way.

use crate::error::{IoContext, Result};
use crate::guestfs::{Guestfs, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a command takes before it shows a bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a command tells while it works.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Showing {
    /// Show no progress
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// `--help` of a command that has another meaning for `-h`.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct LongHelp {
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    #[allow(dead_code, reason = "clap acts on it")]
    help: Option<bool>,
}

/// A bar that appears when the work takes a while and standard error is a terminal.
#[derive(Clone)]
pub(super) struct Bar {
    bar: ProgressBar,
    began: Instant,
    shown: Arc<AtomicBool>,
    wanted: bool,
    interrupted: Arc<AtomicBool>,
}

impl Showing {
    /// Makes the bar of one work. From here on, the first SIGINT or SIGTERM ends the work in order, the second at once.
    pub(super) fn bar(self) -> Result<Bar> {
        let interrupted = Arc::new(AtomicBool::new(false));
        Bar::end_on_signals(&interrupted)?;
        Ok(self.bar_with(interrupted))
    }

    /// Makes the bar of one work, which ends when `interrupted` is set.
    pub(super) fn bar_with(self, interrupted: Arc<AtomicBool>) -> Bar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let wanted = !self.quiet && io::stderr().is_terminal();
        Bar { bar, began: Instant::now(), shown: Arc::new(AtomicBool::new(false)), wanted, interrupted }
    }

    /// Shows how far the calls of a handle come.
    pub(super) fn watch(self, guest: &mut Guestfs) -> Result<()> {
        let bar = self.bar()?;
        guest.set_progress_callback(move |progress| bar.update(progress));
        Ok(())
    }
}

impl Bar {
    /// Lets the first SIGINT or SIGTERM set `interrupted`, and one that comes while it is set end the program at once.
    pub(super) fn end_on_signals(interrupted: &Arc<AtomicBool>) -> Result<()> {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let doing = || "cannot handle signals";
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(interrupted)).doing(doing)?;
            signal_hook::flag::register(signal, Arc::clone(interrupted)).doing(doing)?;
        }
        Ok(())
    }

    /// Shows how far the work has come; `Break` when it shall end.
    pub(super) fn update(&self, progress: Progress) -> ControlFlow<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            self.bar.finish_and_clear();
            return ControlFlow::Break(());
        }
        if self.wanted && self.began.elapsed() > PATIENCE {
            if !self.shown.swap(true, Ordering::Relaxed) {
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
                let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
                let style = if progress.total == 0 { "{spinner} {bytes} {bytes_per_sec}" } else { style };
                if let Ok(style) = ProgressStyle::with_template(style) {
                    self.bar.set_style(style);
                }
            }
            if progress.total > 0 {
                self.bar.set_length(progress.total);
            }
            self.bar.set_position(progress.done);
            if progress.done >= progress.total && progress.total > 0 {
                self.bar.finish_and_clear();
            }
        }
        ControlFlow::Continue(())
    }
}
