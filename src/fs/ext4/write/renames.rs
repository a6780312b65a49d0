//! Moving names.

use super::core::{CREDITS, Core};
use super::dirs::Dir;
use super::edit::now;
use super::inodes::{Inner, InodeState};
use super::names::{
    check_dir, check_name, check_victim, count_down, count_up, delete_if_closed, drop_link, put_dir_times,
};
use super::space::FREE_CREDITS;
use crate::error::{Error, Result};
use crate::fs::write::RenameMode;
use parking_lot::MutexGuard;
use std::sync::Arc;

/// The deepest folder that is looked for.
const DEPTH_MAX: u32 = 1 << 20;

/// Says whether `upper` is a folder above `lower`, or it.
fn is_above(core: &Core, upper: u32, lower: u32) -> Result<bool> {
    let mut at = lower;
    for _ in 0..DEPTH_MAX {
        if at == upper {
            return Ok(true);
        }
        if at == super::super::superblock::ROOT_INO {
            return Ok(false);
        }
        let dir = core.volume.inode(at)?;
        at = core.volume.parent(&dir)?;
    }
    Err(Error::corrupt(format!("directory {lower}"), "its parents never lead to the root"))
}

/// Locks two inodes, one before the other; one only where both are the same.
fn lock_both<'a>(
    first: &'a InodeState,
    second: Option<&'a InodeState>,
) -> (MutexGuard<'a, Inner>, Option<MutexGuard<'a, Inner>>) {
    let one = first.lock.lock();
    (one, second.map(|state| state.lock.lock()))
}

/// Moves a name.
///
/// # Errors
/// As [`FilesystemWrite::rename`](crate::fs::FilesystemWrite::rename).
pub(super) fn rename(core: &Core, from: u32, name: &[u8], to: u32, new_name: &[u8], mode: RenameMode) -> Result<()> {
    check_renamed(name)?;
    check_renamed(new_name)?;
    core.check_writable()?;
    let is_move = from != to;
    let _moving = is_move.then(|| core.moving.lock());
    let (from_state, to_state) = (core.state(from), core.state(to));
    let is_upper_second = is_move && (is_above(core, to, from)? || !is_above(core, from, to)? && to < from);
    let _dirs = if !is_move {
        lock_both(&from_state, None)
    } else if is_upper_second {
        lock_both(&to_state, Some(&from_state))
    } else {
        lock_both(&from_state, Some(&to_state))
    };
    let from_dir = Dir::load(core, from)?;
    let to_dir = Dir::load(core, to)?;
    let source = core.volume.find(&from_dir.inode, name)?.ok_or(Error::Errno(libc::ENOENT))?;
    let target = core.volume.find(&to_dir.inode, new_name)?;
    check_dir(&from_dir, true)?;
    check_dir(&to_dir, target.is_some())?;
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => return Err(Error::Errno(libc::EEXIST)),
        (RenameMode::Exchange, None) => return Err(Error::Errno(libc::ENOENT)),
        _ => {}
    }
    if is_move && is_above(core, source, to)? || source == from || source == to {
        return Err(Error::Errno(libc::EINVAL));
    }
    if let Some(target) = target
        && (is_move && is_above(core, target, from)? || target == from || target == to)
    {
        let errno = if mode == RenameMode::Exchange { libc::EINVAL } else { libc::ENOTEMPTY };
        return Err(Error::Errno(errno));
    }
    if target == Some(source) {
        return Ok(());
    }
    let source_state = core.state(source);
    let target_state = target.map(|target| core.state(target));
    let (_source_inner, mut target_inner) = match &target_state {
        Some(target_state) if target < Some(source) => {
            let target_inner = target_state.lock.lock();
            (source_state.lock.lock(), Some(target_inner))
        }
        other => lock_both(&source_state, other.as_deref()),
    };
    let (source_inode, source_edit) = core.edit(source)?;
    check_victim(&source_inode)?;
    let target_found = target.map(|target| core.edit(target)).transpose()?;
    if let Some((target_inode, _)) = &target_found {
        check_victim(target_inode)?;
        if mode != RenameMode::Exchange {
            match (source_inode.is_dir(), target_inode.is_dir()) {
                (true, false) => return Err(Error::Errno(libc::ENOTDIR)),
                (false, true) => return Err(Error::Errno(libc::EISDIR)),
                _ => {}
            }
        }
    }
    let (source_type, source_is_dir) = (source_inode.file_type(), source_inode.is_dir());
    let ((), tid) = core.transact(CREDITS + FREE_CREDITS, |op| {
        // The same folder twice is one that changes twice.
        let mut dirs = vec![from_dir.clone()];
        if is_move {
            dirs.push(to_dir.clone());
        }
        let last = dirs.len() - 1;
        let mut moved = Dir { inode: Arc::clone(&source_inode), edit: source_edit.clone() };
        match &target_found {
            Some((target_inode, target_edit)) if mode == RenameMode::Exchange => {
                let mut other = Dir { inode: Arc::clone(target_inode), edit: target_edit.clone() };
                let target_is_dir = target_inode.is_dir();
                dirs[last].replace(op, new_name, source, source_type)?;
                dirs[0].replace(op, name, target_inode.ino, target_inode.file_type())?;
                if is_move {
                    if source_is_dir {
                        moved.replace(op, b"..", to, crate::fs::FileType::Directory)?;
                    }
                    if target_is_dir {
                        other.replace(op, b"..", from, crate::fs::FileType::Directory)?;
                    }
                    if source_is_dir && !target_is_dir {
                        count_up(core, &mut dirs[1].edit)?;
                        count_down(&mut dirs[0].edit);
                    } else if target_is_dir && !source_is_dir {
                        count_up(core, &mut dirs[0].edit)?;
                        count_down(&mut dirs[1].edit);
                    }
                }
                other.edit.set_ctime(now());
                op.put(other.edit);
            }
            Some((target_inode, target_edit)) => {
                let mut old = Dir { inode: Arc::clone(target_inode), edit: target_edit.clone() };
                if source_is_dir && !old.is_empty(op)? {
                    return Err(Error::Errno(libc::ENOTEMPTY));
                }
                dirs[last].replace(op, new_name, source, source_type)?;
                dirs[0].remove(op, name)?;
                if source_is_dir {
                    // The folder that is replaced goes, and with it a name of its parent.
                    count_down(&mut dirs[last].edit);
                }
            }
            None => {
                dirs[last].insert(op, new_name, source, source_type)?;
                dirs[0].remove(op, name)?;
            }
        }
        if is_move && source_is_dir && mode != RenameMode::Exchange {
            moved.replace(op, b"..", to, crate::fs::FileType::Directory)?;
            count_down(&mut dirs[0].edit);
            count_up(core, &mut dirs[1].edit)?;
        }
        moved.edit.set_ctime(now());
        op.put(moved.edit);
        for mut dir in dirs {
            put_dir_times(&mut dir.edit);
            op.put(dir.edit);
        }
        if let (Some((inode, edit)), Some(state)) = (&target_found, &target_state)
            && mode != RenameMode::Exchange
        {
            drop_link(op, inode, edit.clone(), state.opens() > 0)?;
        }
        Ok(())
    })?;
    for state in [&from_state, &to_state, &source_state].into_iter().chain(&target_state) {
        state.touch(tid);
    }
    if let (Some(state), Some(inner), Some(target)) = (&target_state, &mut target_inner, target) {
        delete_if_closed(core, state, inner, target)?;
    }
    Ok(())
}

fn check_renamed(name: &[u8]) -> Result<()> {
    match check_name(name) {
        Err(error) if error.is_errno(libc::EEXIST) => Err(Error::Errno(libc::EBUSY)),
        result => result,
    }
}
