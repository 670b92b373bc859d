//! Placeholder of the layout; see ARCHITECTURE.md.
