//! Floor 2: devices made of devices.
