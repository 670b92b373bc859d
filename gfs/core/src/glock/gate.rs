//! The gate of a glock: which requests are served while its caches are being drained.
