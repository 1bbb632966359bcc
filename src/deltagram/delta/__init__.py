"""Arrays in, arrays out: masks, differences, quantised values, plans and in-place patches."""
