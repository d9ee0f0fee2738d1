"""Features of teachers on their way into the cache: standardised by PHI-S, quantised to a few bits."""
