"""Writers of exports, one a source: what another program would have written for an invented history."""
