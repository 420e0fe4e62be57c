-- From a line of the timetable to what the network sees.
SELECT
  -- Minutes of the day.
  60 * (sched_dep_time // 100) + sched_dep_time % 100 AS departure,
  60 * (sched_arr_time // 100) + sched_arr_time % 100 AS arrival,
  distance,
  -- Text is a category; of the aeroplanes and flights only those that training saw often have a place of their own.
  carrier,
  origin,
  dest,
  flight,
  tailnum,
  -- The season goes round a circle. Not the month: the latest ones are in no training row.
  sin(6.283185307179586 * dayofyear(time_hour) / 365.25) AS season_sin,
  cos(6.283185307179586 * dayofyear(time_hour) / 365.25) AS season_cos,
  isodow(time_hour) AS weekday
FROM raw
