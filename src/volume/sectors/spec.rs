//! The name of a cipher, and what is made of it and a key.

use super::cbc::{Cbc, Ecb};
use super::elephant::Elephant;
use super::iv::Iv;
use super::xex::{Masks, Products, Xex};
use super::{BlockCipher, SectorCipher};
use crate::error::{Error, Result};
use crate::volume::hash::Hash;
use cipher::KeyInit;

/// A cipher, its mode and its initialisation vector, as the kernel names them: `aes-xts-plain64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::volume) struct CipherSpec {
    /// The cipher: `aes`.
    cipher: String,
    /// The mode: `xts`.
    mode: String,
    /// The initialisation vector: `plain64`, `essiv:sha256`.
    iv: String,
}

/// What the parts of a sector cipher are made with.
struct Making<'a> {
    key: &'a [u8],
    sector: usize,
    first: u64,
    spec: &'a CipherSpec,
}

impl CipherSpec {
    /// Reads a whole name.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is not `CIPHER-MODE-IV` or `CIPHER-ecb`.
    pub(in crate::volume) fn parse(name: &str) -> Result<Self> {
        let mut parts = name.splitn(3, '-');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let spec = Self { cipher: part(), mode: part(), iv: part() };
        if name.contains('(') || name.starts_with("capi:") || spec.mode.is_empty() {
            return Err(Error::unsupported(format!("the cipher {name:?}")));
        }
        Ok(spec)
    }

    /// Makes the cipher for sectors of `sector` bytes, the first of which has the number `first`.
    ///
    /// # Errors
    /// [`Error::Unsupported`], by name, for a cipher, a mode, a vector or a length of key that is not known.
    pub(in crate::volume) fn make(&self, key: &[u8], sector: u32, first: u64) -> Result<Box<dyn SectorCipher>> {
        let sector = match sector {
            512 | 1024 | 2048 | 4096 => sector as usize,
            _ => return Err(Error::unsupported(format!("encrypted sectors of {sector} bytes"))),
        };
        let making = Making { key, sector, first, spec: self };
        // XTS has two keys of one length; LRW adds a block to the cipher's key.
        let length = match self.mode.as_str() {
            "xts" if key.len().is_multiple_of(2) => key.len() / 2,
            "lrw" => key.len().saturating_sub(16),
            // The diffuser has a key of its own, as long as the cipher's.
            "cbc" if self.iv == "elephant" => key.len() / 2,
            _ => key.len(),
        };
        match (self.cipher.as_str(), length) {
            ("aes", 16) => making.with::<aes::Aes128>(length),
            ("aes", 24) => making.with::<aes::Aes192>(length),
            ("aes", 32) => making.with::<aes::Aes256>(length),
            ("camellia", 16) => making.with::<camellia::Camellia128>(length),
            ("camellia", 24) => making.with::<camellia::Camellia192>(length),
            ("camellia", 32) => making.with::<camellia::Camellia256>(length),
            ("serpent", 16..=32) => making.with::<serpent::Serpent>(length),
            ("twofish", 16 | 24 | 32) => making.with::<twofish::Twofish>(length),
            _ => Err(self.refused(key.len())),
        }
    }

    fn refused(&self, key: usize) -> Error {
        let Self { cipher, mode, iv } = self;
        let dash = if iv.is_empty() { "" } else { "-" };
        Error::unsupported(format!("the cipher {cipher}-{mode}{dash}{iv} with a key of {} bits", key * 8))
    }
}

impl Making<'_> {
    fn with<C: BlockCipher + KeyInit + 'static>(&self, length: usize) -> Result<Box<dyn SectorCipher>> {
        let Self { key, sector, first, spec } = *self;
        let refused = || spec.refused(key.len());
        let cipher = |key: &[u8]| C::new_from_slice(key).map_err(|_| refused());
        let main = cipher(key.get(..length).ok_or_else(refused)?)?;
        if spec.mode == "ecb" {
            return Ok(Box::new(Ecb(main)));
        }
        let iv = self.iv()?;
        Ok(match spec.mode.as_str() {
            "cbc" if spec.iv == "elephant" => {
                let cbc = Cbc { cipher: main, iv, sector, first };
                Box::new(Elephant { cbc, tweak: cipher(&key[length..])? })
            }
            "cbc" => Box::new(Cbc { cipher: main, iv, sector, first }),
            "xts" => Box::new(Xex { cipher: main, masks: Masks::Xts(cipher(&key[length..])?), iv, sector, first }),
            "lrw" => {
                let products = Products::new(key[length..].try_into().map_err(|_| refused())?);
                Box::new(Xex { cipher: main, masks: Masks::Lrw(Box::new(products)), iv, sector, first })
            }
            _ => return Err(refused()),
        })
    }

    fn iv(&self) -> Result<Iv> {
        let name = self.spec.iv.as_str();
        let refused = || self.spec.refused(self.key.len());
        if let Some(hash) = name.strip_prefix("essiv:") {
            let key = Hash::from_name(hash)?.digest(&[self.key]);
            fn encrypting<
                C: cipher::BlockCipherEncrypt<BlockSize = cipher::consts::U16> + KeyInit + Send + Sync + 'static,
            >(
                key: &[u8],
            ) -> Option<Iv> {
                C::new_from_slice(key).ok().map(Iv::essiv)
            }
            let iv = match (self.spec.cipher.as_str(), key.len()) {
                ("aes", 16) => encrypting::<aes::Aes128>(&key),
                ("aes", 24) => encrypting::<aes::Aes192>(&key),
                ("aes", 32) => encrypting::<aes::Aes256>(&key),
                ("camellia", 16) => encrypting::<camellia::Camellia128>(&key),
                ("camellia", 24) => encrypting::<camellia::Camellia192>(&key),
                ("camellia", 32) => encrypting::<camellia::Camellia256>(&key),
                ("serpent", 16..=32) => encrypting::<serpent::Serpent>(&key),
                ("twofish", 16 | 24 | 32) => encrypting::<twofish::Twofish>(&key),
                _ => None,
            };
            return iv.ok_or_else(refused);
        }
        Ok(match name {
            "null" => Iv::Null,
            "plain" => Iv::Plain,
            "plain64" => Iv::Plain64,
            // The kernel's plain64 with its flag `iv_large_sectors`.
            "plain64large" => Iv::Plain64Large(self.sector.trailing_zeros() - super::IV_UNIT.trailing_zeros()),
            "plain64be" => Iv::Plain64Be,
            "benbi" => Iv::Benbi,
            "eboiv" => self.place(self.key)?,
            "elephant" => self.place(&self.key[..self.key.len() / 2])?,
            _ => return Err(refused()),
        })
    }

    /// Makes the vector that is the place in bytes, encrypted with the cipher's key.
    fn place(&self, key: &[u8]) -> Result<Iv> {
        let refused = |_| self.spec.refused(self.key.len());
        match (self.spec.cipher.as_str(), key.len()) {
            ("aes", 16) => aes::Aes128::new_from_slice(key).map(Iv::place).map_err(refused),
            ("aes", 32) => aes::Aes256::new_from_slice(key).map(Iv::place).map_err(refused),
            _ => Err(self.spec.refused(self.key.len())),
        }
    }
}
