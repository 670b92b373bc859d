//! `corral iscsi`: looks at a logical unit over the network, through Corral's own initiator.

use block_core::{BlockDevice, Geometry, IscsiUrl};
use iscsi_target_initiator::{Initiator, Options};

/// The size of the unit at `url`; the error says what could not be reached or used.
pub fn capacity(url: &str) -> Result<Geometry, String> {
    let url = IscsiUrl::parse(url).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let device = Initiator::connect(&url, Options::default()).await.map_err(|e| e.to_string())?;
        let geometry = device.geometry();
        device.close().await;
        Ok(geometry)
    })
}

/// As one line of text.
pub fn text(geometry: &Geometry) -> String {
    format!("{} bytes, {} blocks of {} bytes\n", geometry.size().0, geometry.sectors, geometry.sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_told_in_bytes_and_blocks_and_a_bad_url_is_named() {
        assert_eq!(text(&Geometry { sector: 512, sectors: 8 }), "4096 bytes, 8 blocks of 512 bytes\n");
        assert!(capacity("http://example.org").is_err());
    }
}
