//! QMP and HMP: typed commands and events.
