// Pixels of the sphere (HEALPix, RING ordering: Gorski et al. 2005, section 5) and its projection
// (Hammer's: equal area, the whole sky in an ellipse, and true to shape where one zooms in).

const TAU = 2 * Math.PI;

function mod(a, b) {
  return a - b * Math.floor(a / b);
}

/** Pixel in RING ordering of a direction given by z = sin(latitude) and longitude [rad]. */
function pixelOf(nside, z, longitude) {
  const turn = mod(longitude, TAU) / (TAU / 4); // in quarters, [0, 4)
  const height = Math.abs(z);
  if (height <= 2 / 3) {
    const a = nside * (0.5 + turn), b = nside * z * 0.75;
    const up = Math.floor(a - b), down = Math.floor(a + b);
    const ring = nside + 1 + up - down;
    const shift = 1 - (ring & 1);
    const place = mod((up + down - nside + shift + 1) >> 1, 4 * nside);
    return 2 * nside * (nside - 1) + (ring - 1) * 4 * nside + place;
  }
  const part = turn - Math.floor(turn), wide = nside * Math.sqrt(3 * (1 - height));
  const up = Math.floor(part * wide), down = Math.floor((1 - part) * wide);
  const ring = up + down + 1; // from the nearer pole
  const place = mod(Math.floor(turn * ring), 4 * ring);
  return z > 0 ? 2 * ring * (ring - 1) + place : 12 * nside * nside - 2 * ring * (ring + 1) + place;
}

/** Centre of a pixel: [z, longitude]. */
function centreOf(nside, pixel) {
  const cap = 2 * nside * (nside - 1), all = 12 * nside * nside;
  if (pixel >= cap && pixel < all - cap) {
    const ring = Math.floor((pixel - cap) / (4 * nside)) + nside;
    const place = (pixel - cap) % (4 * nside);
    const shift = (ring + nside) & 1 ? 0 : 0.5;
    return [(2 * nside - ring) * 2 / (3 * nside), (place + shift) * TAU / (4 * nside)];
  }
  const mirrored = pixel < cap ? pixel : all - 1 - pixel; // counted from the nearer pole
  const ring = Math.floor((1 + Math.sqrt(1 + 2 * mirrored)) / 2);
  const place = mirrored - 2 * ring * (ring - 1);
  const z = 1 - ring * ring / (3 * nside * nside);
  const turn = pixel < cap ? place + 0.5 : 4 * ring - place - 0.5;
  return [pixel < cap ? z : -z, turn * TAU / (4 * ring)];
}

/** Unit vector of a direction in degrees. */
function vectorOf(lon, lat) {
  const l = lon * TAU / 360, b = lat * TAU / 360;
  return [Math.cos(b) * Math.cos(l), Math.cos(b) * Math.sin(l), Math.sin(b)];
}

/** Longitude [0, 360) and latitude of a unit vector, in degrees. */
function directionOf(v) {
  const lon = mod(Math.atan2(v[1], v[0]) * 360 / TAU, 360);
  return [lon, Math.asin(Math.max(-1, Math.min(1, v[2]))) * 360 / TAU];
}

/** Unit vectors ahead, to the east and to the north of a direction in degrees. */
function frameAt(lon, lat) {
  const l = lon * TAU / 360, b = lat * TAU / 360;
  return {
    ahead: vectorOf(lon, lat),
    east: [-Math.sin(l), Math.cos(l), 0],
    north: [-Math.sin(b) * Math.cos(l), -Math.sin(b) * Math.sin(l), Math.cos(b)],
  };
}

/** Where Hammer's projection about a frame puts a vector: x to the east, y to the north. */
function project(frame, v) {
  const dot = (a) => a[0] * v[0] + a[1] * v[1] + a[2] * v[2];
  const sine = Math.max(-1, Math.min(1, dot(frame.north)));
  const half = Math.atan2(dot(frame.east), dot(frame.ahead)) / 2;
  const cosine = Math.sqrt(1 - sine * sine);
  const size = Math.SQRT2 / Math.sqrt(1 + cosine * Math.cos(half));
  return [2 * size * cosine * Math.sin(half), size * sine];
}

/** The vector that Hammer's projection puts at x, y: [ahead, east, north]; null outside the sky. */
function unproject(x, y) {
  const inside = x * x / 8 + y * y / 2;
  if (inside > 1) return null;
  const z = Math.sqrt(1 - x * x / 16 - y * y / 4);
  const sine = z * y, cosine = Math.sqrt(Math.max(0, 1 - sine * sine));
  // the longitude is twice the angle whose tangent is a / b
  const a = z * x, b = 2 * (2 * z * z - 1), norm = a * a + b * b;
  if (norm === 0) return [cosine, 0, sine];
  return [cosine * (b * b - a * a) / norm, cosine * 2 * a * b / norm, sine];
}
