//! A walk over everything below a folder.

use super::{Node, Tree};
use crate::error::{Error, Result};
use crate::fs::{Attr, FileType};
use std::ops::ControlFlow;

/// What a visitor sees of one file.
#[derive(Clone, Copy, Debug)]
pub struct Visited<'a> {
    /// The path below the folder where the walk began; empty for that folder itself.
    pub path: &'a [u8],
    /// The last name of the path.
    pub name: &'a [u8],
    /// The file.
    pub node: Node,
    /// What `stat` shows of it.
    pub attr: &'a Attr,
    /// How many folders deep it lies; 0 where the walk began.
    pub depth: usize,
}

/// What a visitor sees of one file without its inode.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The path below the folder where the walk began; empty for that folder itself.
    pub path: &'a [u8],
    /// The last name of the path.
    pub name: &'a [u8],
    /// The file.
    pub node: Node,
    /// What kind of file it is, as its folder tells it.
    pub file_type: FileType,
    /// How many folders deep it lies; 0 where the walk began.
    pub depth: usize,
}

/// What a walk does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It goes on, into the file if that is a folder.
    Enter,
    /// It goes on, but not into this folder.
    Skip,
    /// It ends.
    Stop,
}

/// The deepest folder that a walk enters. Folders of a damaged image may lead round in a circle.
const MAX_DEPTH: usize = 4096;

/// One step of a walk.
struct Step<'a> {
    path: &'a [u8],
    name: &'a [u8],
    node: Node,
    /// The type, as far as the folder tells it.
    known: Option<FileType>,
    depth: usize,
}

/// What is done at each step; it returns what comes next and whether the file is a folder.
type OnStep<'a> = &'a mut dyn FnMut(Step<'_>) -> Result<(Visit, bool)>;

struct Pending {
    name: Vec<u8>,
    node: Node,
    file_type: Option<FileType>,
}

/// The entries of one folder that are still to be visited, in reverse, and how long the path is there.
struct Level {
    entries: Vec<Pending>,
    node: Node,
    path_length: usize,
}

impl Tree {
    /// Visits a file and, below a folder, everything there is, folders before what they hold. Entries of a folder come in
    /// the folder's order, or by name where `sorted`.
    ///
    /// A file that cannot be read is given to `failed` with its path, and the walk goes on when that returns `Ok`.
    ///
    /// # Errors
    /// Those of `visit` and of `failed`.
    pub fn visit(
        &self,
        start: Node,
        sorted: bool,
        visit: &mut dyn FnMut(Visited<'_>) -> Result<Visit>,
        failed: &mut dyn FnMut(&[u8], Error) -> Result<()>,
    ) -> Result<()> {
        let failed = std::cell::RefCell::new(failed);
        let mut with_attr = |step: Step<'_>| {
            let Step { path, name, node, depth, .. } = step;
            let attr = match self.attr(node) {
                Ok(attr) => attr,
                Err(error) if depth == 0 => return Err(error),
                Err(error) => {
                    failed.borrow_mut()(path, error)?;
                    return Ok((Visit::Skip, false));
                }
            };
            Ok((visit(Visited { path, name, node, attr: &attr, depth })?, attr.is_dir()))
        };
        self.walk(start, sorted, &mut with_attr, &mut |path, error| failed.borrow_mut()(path, error))
    }

    /// Visits a file and everything below it as [`visit`](Self::visit) does, but reads no inodes where the folders tell
    /// what kind each file is.
    ///
    /// # Errors
    /// As [`visit`](Self::visit).
    pub fn visit_names(
        &self,
        start: Node,
        sorted: bool,
        visit: &mut dyn FnMut(Named<'_>) -> Result<Visit>,
        failed: &mut dyn FnMut(&[u8], Error) -> Result<()>,
    ) -> Result<()> {
        let failed = std::cell::RefCell::new(failed);
        let mut with_type = |step: Step<'_>| {
            let Step { path, name, node, known, depth } = step;
            let file_type = match known.map_or_else(|| self.attr(node).map(|attr| attr.file_type), Ok) {
                Ok(file_type) => file_type,
                Err(error) if depth == 0 => return Err(error),
                Err(error) => {
                    failed.borrow_mut()(path, error)?;
                    return Ok((Visit::Skip, false));
                }
            };
            let next = visit(Named { path, name, node, file_type, depth })?;
            Ok((next, file_type == FileType::Directory))
        };
        self.walk(start, sorted, &mut with_type, &mut |path, error| failed.borrow_mut()(path, error))
    }

    /// Walks over everything.
    fn walk(
        &self,
        start: Node,
        sorted: bool,
        visit: OnStep<'_>,
        failed: &mut dyn FnMut(&[u8], Error) -> Result<()>,
    ) -> Result<()> {
        if visit(Step { path: b"", name: b"", node: start, known: None, depth: 0 })? != (Visit::Enter, true) {
            return Ok(());
        }
        let mut path = Vec::new();
        let mut levels = Vec::new();
        self.enter(start, &path, sorted, &mut levels, failed)?;
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path_length);
            let Some(Pending { name, node, file_type }) = level.entries.pop() else {
                levels.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let depth = levels.len();
            match visit(Step { path: &path, name: &name, node, known: file_type, depth })? {
                (Visit::Stop, _) => return Ok(()),
                (Visit::Enter, true) => {
                    if depth >= MAX_DEPTH || levels.iter().any(|level| level.node == node) {
                        failed(&path, Error::corrupt("directory tree", "a folder lies within itself"))?;
                    } else {
                        self.enter(node, &path, sorted, &mut levels, failed)?;
                    }
                }
                (Visit::Enter | Visit::Skip, _) => {}
            }
        }
        Ok(())
    }

    fn enter(
        &self,
        node: Node,
        path: &[u8],
        sorted: bool,
        levels: &mut Vec<Level>,
        failed: &mut dyn FnMut(&[u8], Error) -> Result<()>,
    ) -> Result<()> {
        let mut entries = Vec::new();
        let read = self.read_dir(node, 0, &mut |node, entry| {
            entries.push(Pending { name: entry.name.to_vec(), node, file_type: entry.file_type });
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            failed(path, error)?;
        }
        if sorted {
            entries.sort_by(|one, other| other.name.cmp(&one.name));
        } else {
            entries.reverse();
        }
        levels.push(Level { entries, node, path_length: path.len() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Mount;
    use crate::tree::folders::Folders;
    use std::sync::Arc;

    #[test]
    fn folders_come_before_what_they_hold_and_can_be_left_out() {
        let folders = Folders::new([b"b/x".as_slice(), b"a/y/z", b"c"].into_iter());
        let mount = Mount { filesystem: Arc::new(folders), mountpoint: b"/".to_vec(), source: String::new() };
        let tree = Tree::new(vec![mount]).expect("one mount");
        let mut seen = Vec::new();
        tree.visit(
            tree.root(),
            true,
            &mut |file| {
                seen.push(String::from_utf8_lossy(file.path).into_owned());
                Ok(if file.path == b"a/y" { Visit::Skip } else { Visit::Enter })
            },
            &mut |_, error| Err(error),
        )
        .expect("walks");
        assert_eq!(seen, ["", "a", "a/y", "b", "b/x", "c"]);
    }
}
