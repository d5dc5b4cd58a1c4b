// The pages of the studio, as links at the top of each.
const ROOMS = { Make: "./", Edit: "edit.html", Compare: "compare.html", Understand: "understand.html", Models: "models.html" };

const nav = document.getElementById("rooms");
for (const [name, place] of Object.entries(ROOMS)) {
  const link = document.createElement("a");
  link.href = place;
  link.textContent = name;
  if (new URL(place, location).pathname === location.pathname) link.setAttribute("aria-current", "page");
  nav.append(link);
}
