-- From what was written down at the nest to what the network sees.
SELECT
  -- Measurements. NULL is filled with the training mean, and a feature of its own marks it.
  "Culmen Length (mm)",
  "Culmen Depth (mm)",
  "Flipper Length (mm)",
  "Body Mass (g)",
  "Delta 15 N (o/oo)",
  "Delta 13 C (o/oo)",
  -- A long, flat beak is a Gentoo's, a short, deep one an Adelie's; NULL where a measurement is.
  "Culmen Length (mm)" / "Culmen Depth (mm)" AS culmen_slimness,
  -- Yes or no.
  "Clutch Completion",
  -- Text is a category. A value that training hardly saw counts as unknown.
  Island,
  Sex,
  -- The species do not breed at the same time: days into the season, which lasts from November to December.
  dayofyear("Date Egg") AS date_egg_day,
  year("Date Egg") AS date_egg_year
FROM raw
