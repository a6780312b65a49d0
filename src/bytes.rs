//! Fields of on-disk structures, read and written at named offsets.
//!
//! Every function panics when the field does not lie within the slice, so callers check the length of a structure once,
//! before they read its fields.

macro_rules! fields {
    ($($get:ident $set:ident $kind:ty, $from:ident, $to:ident, $order:literal;)*) => {$(
        #[doc = concat!("Returns the ", $order, "-endian `", stringify!($kind), "` at `offset`.")]
        #[inline]
        pub fn $get(bytes: &[u8], offset: usize) -> $kind {
            const WIDTH: usize = size_of::<$kind>();
            let mut field = [0; WIDTH];
            field.copy_from_slice(&bytes[offset..offset + WIDTH]);
            <$kind>::$from(field)
        }

        #[doc = concat!("Stores `value` as a ", $order, "-endian `", stringify!($kind), "` at `offset`.")]
        #[inline]
        pub fn $set(bytes: &mut [u8], offset: usize, value: $kind) {
            bytes[offset..offset + size_of::<$kind>()].copy_from_slice(&value.$to());
        }
    )*};
}

fields! {
    le16 set_le16 u16, from_le_bytes, to_le_bytes, "little";
    le32 set_le32 u32, from_le_bytes, to_le_bytes, "little";
    le64 set_le64 u64, from_le_bytes, to_le_bytes, "little";
    be16 set_be16 u16, from_be_bytes, to_be_bytes, "big";
    be32 set_be32 u32, from_be_bytes, to_be_bytes, "big";
    be64 set_be64 u64, from_be_bytes, to_be_bytes, "big";
}

/// Returns the bytes before the first NUL.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(bytes)
}

/// Formats bytes as hexadecimal digits in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Formats 16 bytes, in order, as a UUID in lower case.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Formats 16 bytes as a GUID: the first three fields are little-endian, the rest is in order; in lower case.
pub fn guid(bytes: &[u8; 16]) -> String {
    let mut ordered = *bytes;
    ordered[0..4].reverse();
    ordered[4..6].reverse();
    ordered[6..8].reverse();
    uuid(&ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_as_it_was_stored() {
        let mut bytes = [0; 12];
        set_be32(&mut bytes, 1, 0x0102_0304);
        assert_eq!(bytes[1..5], [1, 2, 3, 4]);
        assert_eq!(le32(&bytes, 1), 0x0403_0201);
        set_le64(&mut bytes, 4, u64::MAX - 1);
        assert_eq!(be16(&bytes, 4), 0xfeff);
    }

    #[test]
    fn a_guid_has_three_fields_turned_round() {
        let efi = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(guid(&efi), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }
}
