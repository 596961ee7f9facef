"""Scenes (GeoTIFF, Sentinel-2 products) to stores that are searched by words, and to maps."""
