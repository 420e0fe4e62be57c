-- From the pixels to what the network sees.
SELECT
  -- Every pixel; those of the frame are white in every row, and cost nothing to learn.
  *,
  -- How much ink there is in the upper and in the lower half of three columns in the middle: 4, 7 and 9 differ.
  pixel_266 + pixel_294 + pixel_322 AS ink_above,
  pixel_490 + pixel_518 + pixel_546 AS ink_below
FROM raw
