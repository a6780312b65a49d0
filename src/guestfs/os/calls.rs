//! The calls of libguestfs about a root that was found.

use super::super::Guestfs;
use super::Root;
use crate::error::{Error, Result};
use crate::inspect::{self, Container, Details, DriveMapping, Package, Packages, Placed, System};

impl Guestfs {
    /// Finds the operating systems; returns the names of their roots: a device, or `btrfsvol:DEVICE/SUBVOLUME`.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn inspect_os(&mut self) -> Result<Vec<String>> {
        let roots = self.inspect_roots()?;
        let names = roots.iter().map(Root::name).collect();
        self.roots = Some(roots);
        Ok(names)
    }

    /// Returns what [`inspect_os`](Self::inspect_os) found of a root.
    ///
    /// # Errors
    /// [`Error::Usage`] before that call, [`Error::NotFound`] for another device.
    pub fn inspect_get(&self, root: &str) -> Result<&Root> {
        let roots = self.found_roots()?;
        roots
            .iter()
            .find(|found| found.name() == root)
            .or_else(|| roots.iter().find(|found| found.device == root))
            .ok_or_else(|| Error::NotFound(format!("{root} is no root that inspect_os found").into()))
    }

    fn found_roots(&self) -> Result<&[Root]> {
        self.roots.as_deref().ok_or_else(|| Error::Usage("call inspect_os first".into()))
    }

    /// Returns the names that [`inspect_os`](Self::inspect_os) found, without looking again.
    ///
    /// # Errors
    /// [`Error::Usage`] before that call.
    pub fn inspect_get_roots(&self) -> Result<Vec<String>> {
        Ok(self.found_roots()?.iter().map(Root::name).collect())
    }

    /// Returns the folders and what a root's system mounts on them, the shortest folder first: devices, or
    /// `btrfsvol:DEVICE/SUBVOLUME`, which [`mount`](Self::mount) takes. Folders that are shown at a second place (bind mounts)
    /// have no such name and are left out; [`mount_root`](Self::mount_root) mounts them too.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_mountpoints(&self, root: &str) -> Result<Vec<(String, String)>> {
        let mounts = &self.inspect_get(root)?.assembly.mounts;
        let mut pairs = Vec::new();
        let is_whole = |placed: &&Placed| placed.folder.is_none() && placed.lower.is_empty();
        for placed in mounts.iter().filter(|placed| is_whole(placed) || placed.mountpoint == b"/") {
            let folder = String::from_utf8_lossy(&placed.mountpoint).into_owned();
            pairs.push((folder, self.mountable_of(placed)?));
        }
        pairs.sort_by_key(|(folder, _)| folder.len());
        Ok(pairs)
    }

    /// Returns the devices that belong to a root's system: what it mounts, and its swap space.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_filesystems(&self, root: &str) -> Result<Vec<String>> {
        let assembly = &self.inspect_get(root)?.assembly;
        let mut names = assembly.mounts.iter().map(|placed| self.mountable_of(placed)).collect::<Result<Vec<_>>>()?;
        names.extend(assembly.swaps.iter().cloned());
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Returns the picture that stands for a root's system, as its file holds it; nothing where there is none, or it is larger
    /// than 1 MiB.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get), and those of mounting.
    pub fn inspect_get_icon(&self, root: &str) -> Result<Vec<u8>> {
        let root = self.inspect_get(root)?;
        Ok(inspect::icon(&*self.tree_of_root(root)?, &root.system).unwrap_or_default())
    }

    /// Returns the names and versions of the packages of a root's system.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get), and those of mounting.
    pub fn inspect_list_applications(&self, root: &str) -> Result<Vec<(String, String)>> {
        let packages = self.inspect_list_applications2(root)?;
        Ok(packages.into_iter().map(|package| (package.name.clone(), package.full_version())).collect())
    }

    /// Says whether a root is a live system on media.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_is_live(&self, root: &str) -> Result<bool> {
        let root = self.inspect_get(root)?;
        Ok(root.system.installer && inspect::is_live(&*self.tree_of_root(root)?))
    }

    /// Says whether a root is installation media that fetch what they install.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_is_netinst(&self, root: &str) -> Result<bool> {
        let root = self.inspect_get(root)?;
        Ok(root.system.installer && inspect::is_netinst(&*self.tree_of_root(root)?))
    }

    /// Says whether a root is one disc of a set.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_is_multipart(&self, root: &str) -> Result<bool> {
        let root = self.inspect_get(root)?;
        Ok(root.system.installer && inspect::is_multipart(&*self.tree_of_root(root)?))
    }

    /// Returns the packages of a root's system, from the tree as it mounts it.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get), and those of mounting.
    pub fn inspect_list_applications2(&self, root: &str) -> Result<Vec<Package>> {
        Ok(self.inspect_packages(self.inspect_get(root)?)?.packages)
    }

    /// Returns the packages of a root's system with what could not be read of them.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn inspect_packages(&self, root: &Root) -> Result<Packages> {
        Ok(inspect::packages(&*self.tree_of_root(root)?, &root.system))
    }

    /// Returns more about a root's system: kernels, users, services, network.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn inspect_details(&self, root: &Root) -> Result<Details> {
        Ok(inspect::details(&*self.tree_of_root(root)?, &root.system))
    }

    /// Returns the containers whose roots lie in folders of a root's system.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn inspect_containers(&self, root: &Root) -> Result<Vec<Container>> {
        Ok(inspect::containers(&*self.tree_of_root(root)?))
    }
}

/// The calls of libguestfs that return one text about a root; what is not known is `unknown`, as there.
macro_rules! texts {
    ($($name:ident $doc:literal $value:expr;)*) => {
        impl Guestfs {$(
            #[doc = $doc]
            ///
            /// # Errors
            /// As [`inspect_get`](Self::inspect_get).
            pub fn $name(&self, root: &str) -> Result<String> {
                let value: fn(&System) -> Option<String> = $value;
                Ok(value(&self.inspect_get(root)?.system).unwrap_or_else(|| String::from("unknown")))
            }
        )*}
    };
}

texts! {
    inspect_get_type "Returns what kind of system a root holds: `linux`, `windows`, `freebsd`, ….
" |system| Some(system.kind.as_str().to_owned());
    inspect_get_distro "Returns the distribution of a root's system: `debian`, `fedora`, ….
" |system| Some(system.distro.clone());
    inspect_get_product_name "Returns the name of a root's system as it gives it itself.
" |system| system.product_name.clone();
    inspect_get_product_variant "Returns the variant of a root's system: `Server`, `Client`, ….
" |system| system.product_variant.clone();
    inspect_get_arch "Returns the architecture of a root's system.
" |system| system.arch.clone();
    inspect_get_hostname "Returns the name of the machine.
" |system| system.hostname.clone();
    inspect_get_package_format "Returns the form of the packages: `deb`, `rpm`, ….
" |system| system.package_format.clone();
    inspect_get_package_management "Returns the tool for packages: `apt`, `dnf`, ….
" |system| system.package_management.clone();
    inspect_get_osinfo "Returns the short identifier of the osinfo database: `debian12`.
" |system| system.osinfo.clone();
    inspect_get_format "Returns whether a root is `installed` or an `installer` on media.
" |system| Some(if system.installer { "installer" } else { "installed" }.to_owned());
    inspect_get_build_id "Returns the build of a root's system.
" |system| system.build_id.clone();
    inspect_get_windows_systemroot "Returns the folder of Windows.
" |system| system.windows.as_ref().map(|windows| windows.system_root.clone());
    inspect_get_windows_current_control_set "Returns the control set that Windows starts with.
" |system| system.windows.as_ref().and_then(|windows| windows.current_control_set.clone());
    inspect_get_windows_software_hive "Returns the path of the registry's software hive.
" |system| system.windows.as_ref().and_then(|windows| windows.software_hive.clone());
    inspect_get_windows_system_hive "Returns the path of the registry's system hive.
" |system| system.windows.as_ref().and_then(|windows| windows.system_hive.clone());
}

impl Guestfs {
    /// Returns the first number of the version of a root's system; 0 where it has none.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_major_version(&self, root: &str) -> Result<u32> {
        Ok(self.inspect_get(root)?.system.major())
    }

    /// Returns the second number of the version of a root's system; 0 where it has none.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_minor_version(&self, root: &str) -> Result<u32> {
        Ok(self.inspect_get(root)?.system.minor())
    }

    /// Returns the drive letters of Windows and the devices that they stand for.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_drive_mappings(&self, root: &str) -> Result<Vec<(char, String)>> {
        let devices = self.launched()?.describe_devices();
        let none: Vec<DriveMapping> = Vec::new();
        let windows = self.inspect_get(root)?.system.windows.as_ref();
        Ok(inspect::drives(windows.map_or(&none, |windows| &windows.drives), &devices))
    }
}
