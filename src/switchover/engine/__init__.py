"""Source and destination: the only place where bytes and machine meet."""
